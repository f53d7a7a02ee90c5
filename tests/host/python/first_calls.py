"""What a program does first that knows nothing of Ves but its socket: health, reflection, a call.

It has no option that a client of gRPC's C core does not have by itself, but where it plays gRPC for Java, which
names the socket's path as it is. It prints what it found as JSON.
"""

import json
import sys

import grpc
from google.protobuf import json_format, message_factory
from google.protobuf.descriptor_pool import DescriptorPool
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_status import rpc_status

PATIENCE = 20


def failure(call, *args, **more):
    """The code and the reasons of a call that fails."""
    try:
        call(*args, timeout=PATIENCE, **more)
    except grpc.RpcError as error:
        status = rpc_status.from_call(error)
        reasons = []
        for detail in status.details if status else []:
            info = error_details_pb2.ErrorInfo()
            if detail.Unpack(info):
                reasons.append(info.reason)
        return [error.code().name, reasons]
    return ["OK", []]


def main():
    channel = grpc.insecure_channel("unix:" + sys.argv[1])
    health = health_pb2_grpc.HealthStub(channel)
    reflected = ProtoReflectionDescriptorDatabase(channel)
    pool = DescriptorPool(reflected)
    services = sorted(reflected.get_services())

    def status(service):
        answer = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=PATIENCE)
        return health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)

    like_java = grpc.insecure_channel(
        "unix:" + sys.argv[1], options=[("grpc.default_authority", sys.argv[1])]
    )
    health_pb2_grpc.HealthStub(like_java).Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE)

    ours = [name for name in services if name.startswith("ves.")]
    nodes = next(name for name in ours if name.endswith(".NodeService"))
    get_node = pool.FindMethodByName(nodes + ".GetNode")
    ask, answer = (message_factory.GetMessageClass(kind) for kind in (get_node.input_type, get_node.output_type))
    path = f"/{nodes}/GetNode"
    call = channel.unary_unary(path, ask.SerializeToString, answer.FromString)
    raw = channel.unary_unary(path)
    json.dump(
        {
            "services": services,
            "health": {name: status(name) for name in ["", *ours]},
            "node": json_format.MessageToDict(call(ask(name="nodes/-"), timeout=PATIENCE)),
            "undecodable": failure(raw, b"\xff\xff"),
            "too large": failure(raw, b"\x0a" + b"\0" * (8 << 20)),
            "unknown": failure(channel.unary_unary(f"/{nodes}/Nope"), b""),
        },
        sys.stdout,
    )


main()
