#!/usr/bin/env python3
"""A hosting panel's life of a customer: ordered, delivered, upgraded, billed, suspended, gone.

    panel.py TARGET TEMPLATE ID ADDRESS      such as unix:/run/ves/api/coordinator.sock debian-trixie 177 192.0.2.77
"""

import sys

import ves
from ves.api import v1


def main(target: str, template: str, ct: str, address: str) -> None:
    with ves.connect(target, on_behalf_of="customer-17") as node:
        def told(what: str, operation: v1.Operation) -> str:
            done = node.wait(operation, timeout=300)
            print(f"{what}: {(done.end_time.ToDatetime() - done.create_time.ToDatetime()).total_seconds():.2f} s")
            return done.targets[0]

        # Ordered. Whoever orders twice by one order number gets one container. Without an id the node would choose one.
        spec = v1.ContainerSpec(
            template=f"templates/{template}",
            hostname="shop",
            interfaces=[v1.Interface(id="venet0", type=v1.Interface.TYPE_VENET, addresses=[address])],
            volumes=[v1.Volume(id="root", size_bytes=256 << 20)],
            limits=v1.Limits(ubc=v1.UbcLimits(numproc=v1.Bounds(barrier=100, limit=100))),
        )
        container = v1.Container(spec=spec, labels={"customer": "17"}, description="shop of customer 17")
        order = v1.CreateContainerRequest(container=container, ct_id=int(ct), request_id=f"order-4711-{ct}")
        name = told("create", node.containers.CreateContainer(order))

        # Delivered, with the customer's page inside; the page comes in by the command's input.
        told("start", node.containers.StartContainer(v1.StartContainerRequest(name=name)))
        put = node.exec(name, ["/bin/sh", "-c", "mkdir -p /srv/www && cat >/srv/www/index.html"], stdin=b"Welcome\n")
        print("page:", "there" if put.ok else f"not there: {put.stderr.decode()}")

        # A better plan: only what the mask names changes, while it runs.
        spec.limits.ubc.numproc.CopyFrom(v1.Bounds(barrier=200, limit=200))
        better = v1.Container(name=name, spec=spec)
        change = v1.UpdateContainerRequest(container=better, update_mask={"paths": ["spec.limits.ubc.numproc"]})
        told("upgrade", node.containers.UpdateContainer(change))

        # The address of somebody else is refused, and the panel knows why without reading sentences.
        try:
            told("second", node.containers.CreateContainer(v1.CreateContainerRequest(container=container)))
        except ves.VesError as error:
            print(f"second: {error.reason}, {error.facts.get('address')} is of {error.facts.get('holder')}")

        # The bill: what it used since it was created.
        usage = node.usage.GetUsage(v1.GetUsageRequest(container=name))
        print(f"bill: {usage.cpu_time.ToTimedelta().total_seconds():.3f} s of processor, {usage.disk_used_bytes >> 10} KiB")

        # Suspended, then gone.
        told("suspend", node.containers.StopContainer(v1.StopContainerRequest(name=name, grace={"seconds": 10})))
        told("delete", node.containers.DeleteContainer(v1.DeleteContainerRequest(name=name)))


if __name__ == "__main__":
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    main(*sys.argv[1:])
