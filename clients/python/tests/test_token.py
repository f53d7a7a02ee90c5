"""A bearer token from the network, by the client as it is installed: what it lets its holder do, and its end.

The environment says what test_life.py needs of an https target but a certificate, and as VES_TEST_ADMIN where an
administrator finds the same node, who makes the token and revokes it.
"""

import os
import unittest

import grpc

import ves
from ves.api import v1


class Token(unittest.TestCase):
    def test_token(self) -> None:
        ca, ct = os.environ["VES_TEST_CA"], int(os.environ["VES_TEST_CT"])
        admin = ves.connect(os.environ["VES_TEST_ADMIN"])
        self.addCleanup(admin.close)
        project = "projects/python"
        wanted = v1.Token(holder="in-python", role=v1.ACCESS_ROLE_TENANT, projects=[project])
        made = admin.access.CreateToken(v1.CreateTokenRequest(token=wanted))

        def connect(token: str | None) -> ves.Client:
            client = ves.connect(os.environ["VES_TEST_TARGET"], tls=ves.Tls(ca), token=token, retry_for=20)
            self.addCleanup(client.close)
            return client

        def fails(call, request) -> ves.VesError:
            with self.assertRaises(ves.VesError) as failed:
                call(request)
            return failed.exception

        client = connect(made.secret)
        listing = v1.ListContainersRequest()

        # It makes containers in its project, and sees no others.
        spec = v1.ContainerSpec(
            template=f"templates/{os.environ['VES_TEST_TEMPLATE']}", volumes=[v1.Volume(id="root", size_bytes=128 << 20)]
        )
        request = v1.CreateContainerRequest(container=v1.Container(spec=spec), ct_id=ct)
        self.assertEqual(fails(client.containers.CreateContainer, request).reason, "NOT_ALLOWED")
        request.container.project = project
        operation = client.wait(client.containers.CreateContainer(request), timeout=60)
        self.assertEqual((operation.actor.type, operation.actor.id), (v1.Actor.TYPE_TOKEN, "in-python"))
        name = f"containers/{ct}"
        self.assertEqual([each.name for each in client.containers.ListContainers(listing).containers], [name])

        # What it may not, and what there is not.
        refused = fails(client.access.ListTokens, v1.ListTokensRequest())
        self.assertEqual((refused.reason, refused.code()), ("NOT_ALLOWED", grpc.StatusCode.PERMISSION_DENIED))
        self.assertEqual(refused.facts["principal"], "token:in-python")
        unknown = fails(client.containers.GetContainer, v1.GetContainerRequest(name="containers/2147483000"))
        self.assertEqual(unknown.reason, "CONTAINER_UNKNOWN")
        client.wait(client.containers.DeleteContainer(v1.DeleteContainerRequest(name=name)), 60)

        # It ends where there is a connection and where there is none; and nobody comes without.
        admin.access.RevokeToken(v1.RevokeTokenRequest(name=made.token.name))
        for each, why in ((client, "unknown"), (connect(made.secret), "unknown"), (connect(None), "none")):
            ended = fails(each.containers.ListContainers, listing)
            self.assertEqual((ended.reason, ended.facts["why"]), ("UNAUTHENTICATED", why))
            self.assertEqual(ended.code(), grpc.StatusCode.UNAUTHENTICATED)


if __name__ == "__main__":
    unittest.main()
