"""Makes the stubs of the protocol files when the package is built; they are in no repository.

An archive of the sources has the stubs and not the protocol files. Nothing else is decided here: what the package
is stands in pyproject.toml.
"""

import pathlib

from setuptools import setup

HERE = pathlib.Path(__file__).resolve().parent
PROTO = HERE.parent.parent / "proto"
STUBS = HERE / "src"


def generate():
    if not PROTO.is_dir():
        return
    from grpc_tools import protoc

    files = sorted(PROTO.glob("ves/api/v1/*.proto"))
    package = STUBS / "ves/api/v1"
    package.mkdir(parents=True, exist_ok=True)
    outs = [f"--{kind}_out={STUBS}" for kind in ("python", "pyi", "grpc_python")]
    # protoc's own well-known types lie beside it.
    types = pathlib.Path(protoc.__file__).parent / "_proto"
    if protoc.main(["protoc", f"-I{PROTO}", f"-I{types}", *outs, *map(str, files)]) != 0:
        raise RuntimeError(f"protoc cannot make the stubs of {PROTO}")
    (STUBS / "ves/api/__init__.py").write_text('"""The versions of the API."""\n')
    lines = [f"from ves.api.v1.{file.stem}_pb2 import *" for file in files]
    (package / "__init__.py").write_text('"""All messages of ves.api.v1."""\n\n' + "\n".join(lines) + "\n")


generate()
setup()
