"""Generates client/keyturn/v1 from proto/, or with --check compares what is committed with what proto/ generates."""

import filecmp
import sys
import tempfile
from pathlib import Path

import grpc_tools
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parents[2]
PROTO = ROOT / "proto"
STUBS = Path("keyturn/v1")


def generate(target: Path) -> None:
    """Writes the stubs, typed, below `target`. Their plugins are the ones beside this interpreter."""
    scripts = Path(sys.executable).parent
    arguments = [
        "protoc",
        f"--proto_path={PROTO}",
        f"--proto_path={Path(grpc_tools.__file__).parent / '_proto'}",
        f"--plugin=protoc-gen-mypy={scripts / 'protoc-gen-mypy'}",
        f"--plugin=protoc-gen-mypy_grpc={scripts / 'protoc-gen-mypy_grpc'}",
        f"--python_out={target}",
        f"--grpc_python_out={target}",
        f"--mypy_out={target}",
        f"--mypy_grpc_out={target}",
        *sorted(str(path) for path in (PROTO / STUBS).glob("*.proto")),
    ]
    if protoc.main(arguments) != 0:  # type: ignore[no-untyped-call] # grpc_tools has no types
        sys.exit("protoc failed; see above")
    (target / STUBS / "__init__.py").write_text('"""Generated from proto/keyturn/v1 by `make proto`. Do not edit."""\n')


def differences(committed: Path, generated: Path) -> list[str]:
    names = {p.name for folder in (committed, generated) for p in folder.iterdir() if p.suffix in {".py", ".pyi"}}
    return sorted(
        name
        for name in names
        if not (committed / name).exists()
        or not (generated / name).exists()
        or not filecmp.cmp(committed / name, generated / name, shallow=False)
    )


def main() -> None:
    committed = ROOT / "client" / STUBS
    if "--check" not in sys.argv[1:]:
        generate(ROOT / "client")
        return
    with tempfile.TemporaryDirectory() as scratch:
        generate(Path(scratch))
        stale = differences(committed, Path(scratch) / STUBS)
    if stale:
        sys.exit(f"client/keyturn/v1 is not what proto/ generates ({', '.join(stale)}): run `make proto` and commit")
    print("client/keyturn/v1 is what proto/ generates")  # noqa: T201 - a command's answer


if __name__ == "__main__":
    main()
