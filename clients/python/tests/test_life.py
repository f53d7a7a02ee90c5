"""One container's life on a real node, by the client as it is installed.

The environment says which node: VES_TEST_TARGET, and for https VES_TEST_CA, VES_TEST_CERT and VES_TEST_KEY;
VES_TEST_TEMPLATE names a template, VES_TEST_CT an id, VES_TEST_ADDRESS an address that are free.
"""

import os
import socket
import tempfile
import threading
import unittest
import uuid

import grpc

import ves
from ves.api import v1


class Cut:
    """A way to the server that can be cut."""

    def __init__(self, target: str) -> None:
        self._dir = tempfile.TemporaryDirectory()
        self._target = target
        self._open: list[socket.socket] = []
        self._up = True
        if target.startswith("unix:"):
            path = f"{self._dir.name}/socket"
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(path)
            self.target = f"unix:{path}"
        else:
            self._listener = socket.socket()
            self._listener.bind(("127.0.0.1", 0))
            # The name stands in the server's certificate.
            self.target = f"https://localhost:{self._listener.getsockname()[1]}"
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                here, _ = self._listener.accept()
            except OSError:
                return
            if not self._up:
                here.close()
                continue
            if self._target.startswith("unix:"):
                there = socket.socket(socket.AF_UNIX)
                there.connect(self._target.removeprefix("unix:"))
            else:
                host, _, port = self._target.removeprefix("https://").rpartition(":")
                there = socket.create_connection((host, int(port)))
            self._open += [here, there]
            for pair in ((here, there), (there, here)):
                threading.Thread(target=self._pump, args=pair, daemon=True).start()

    def _pump(self, source: socket.socket, to: socket.socket) -> None:
        try:
            while data := source.recv(1 << 16):
                to.sendall(data)
        except OSError:
            pass
        finally:
            source.close()

    def cut(self) -> None:
        self._up = False
        for each in self._open:
            try:
                each.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        self._open.clear()

    def mend(self) -> None:
        self._up = True

    def close(self) -> None:
        self.cut()
        self._listener.close()
        self._dir.cleanup()


def connect(target: str) -> ves.Client:
    ca = os.environ.get("VES_TEST_CA")
    tls = ves.Tls(ca, os.environ["VES_TEST_CERT"], os.environ["VES_TEST_KEY"]) if ca else None
    return ves.connect(target, tls=tls, retry_for=20)


class Life(unittest.TestCase):
    def test_life(self) -> None:
        target, ct = os.environ["VES_TEST_TARGET"], int(os.environ["VES_TEST_CT"])
        address, template = os.environ["VES_TEST_ADDRESS"], os.environ["VES_TEST_TEMPLATE"]
        client = connect(target)
        self.addCleanup(client.close)

        # Create, and the same again by the same request id.
        spec = v1.ContainerSpec(
            template=f"templates/{template}",
            hostname="life",
            interfaces=[v1.Interface(id="venet0", type=v1.Interface.TYPE_VENET, addresses=[address])],
            volumes=[v1.Volume(id="root", size_bytes=128 << 20)],
        )
        container = v1.Container(spec=spec, labels={"client": "python"})
        request = v1.CreateContainerRequest(container=container, ct_id=ct, request_id=str(uuid.uuid4()))
        operation = client.containers.CreateContainer(request)
        self.assertEqual(client.containers.CreateContainer(request).name, operation.name)
        self.assertEqual(client.wait(operation, timeout=60).targets, [f"containers/{ct}"])
        name = f"containers/{ct}"
        self.assertEqual(client.containers.GetContainer(v1.GetContainerRequest(name=name)).labels["client"], "python")

        # Start.
        told = []
        client.wait(client.containers.StartContainer(v1.StartContainerRequest(name=name)), 60, told.append)
        self.assertTrue(told)
        listed = ves.pages(client.containers.ListContainers, v1.ListContainersRequest(page_size=1))
        self.assertIn(name, [each.name for page in listed for each in page.containers])

        # A command with input that takes more than one message, error output and a status.
        data = os.urandom(200_000).hex().encode()
        ended = client.exec(name, ["/bin/sh", "-c", "wc -c; echo no >&2; exit 7"], stdin=data, timeout=60)
        self.assertEqual((ended.code, ended.signal, ended.stderr), (7, None, b"no\n"))
        self.assertEqual(int(ended.stdout), len(data))
        self.assertEqual(client.exec(name, ["/bin/sh", "-c", "kill -9 $$"], timeout=60).signal, 9)

        # A watch goes on where it was, over a lost connection, without a reset.
        way = Cut(target)
        self.addCleanup(way.close)
        far = connect(way.target)
        self.addCleanup(far.close)
        with far.watch_containers(filter='labels.client="python"') as watch:
            known = set()
            for message in watch:
                if message.WhichOneof("event") == "changed":
                    known.add(message.changed.name)
                if message.WhichOneof("event") == "synced":
                    break
            self.assertIn(name, known)
            way.cut()
            change = v1.UpdateContainerRequest(
                container=v1.Container(name=name, description="changed meanwhile"), update_mask={"paths": ["description"]}
            )
            client.wait(client.containers.UpdateContainer(change), 60)
            way.mend()
            for message in watch:
                event = message.WhichOneof("event")
                self.assertNotEqual(event, "reset")
                if event == "changed" and message.changed.description == "changed meanwhile":
                    break
        # One that the server cannot go on from is told so.
        with client.watch_containers(resume_token="of another server") as watch:
            self.assertEqual(next(watch).WhichOneof("event"), "reset")

        # Failures have a reason: of a call, of all fields that are wrong, of an operation.
        with self.assertRaises(ves.VesError) as failed:
            client.containers.GetContainer(v1.GetContainerRequest(name="containers/2147483000"))
        self.assertEqual(failed.exception.reason, "CONTAINER_UNKNOWN")
        self.assertEqual(failed.exception.facts["ct"], "2147483000")
        self.assertEqual(failed.exception.code(), grpc.StatusCode.NOT_FOUND)
        spec.hostname, spec.interfaces[0].addresses[0] = "no host name", "no address"
        with self.assertRaises(ves.VesError) as failed:
            client.containers.CreateContainer(v1.CreateContainerRequest(container=v1.Container(spec=spec)))
        self.assertEqual(failed.exception.reason, "BAD_VALUE")
        fields = {violation.field for violation in failed.exception.violations}
        self.assertIn("container.spec.hostname", fields)
        self.assertIn("container.spec.interfaces[0].addresses[0]", fields)
        with self.assertRaises(ves.VesError) as failed:
            client.wait(client.containers.DeleteContainer(v1.DeleteContainerRequest(name=name)), 60)
        self.assertEqual(failed.exception.reason, "RUNNING")

        # Stop and delete.
        stop = v1.StopContainerRequest(name=name, mode=v1.StopContainerRequest.MODE_KILL)
        client.wait(client.containers.StopContainer(stop), 60)
        client.wait(client.containers.DeleteContainer(v1.DeleteContainerRequest(name=name)), 60)
        with self.assertRaises(ves.VesError) as failed:
            client.containers.GetContainer(v1.GetContainerRequest(name=name))
        self.assertEqual(failed.exception.reason, "CONTAINER_UNKNOWN")


if __name__ == "__main__":
    unittest.main()
