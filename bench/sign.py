"""Prints what a token costs: latency on loopback over mutual TLS, and the server's CPU beside that of a bare signature.

    make bench

The service is a real `keyturn serve` in a scratch folder. CPU is user and system time of its process (/proc on Linux).
"""

import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256

from tests.integration.deployment import Deployment

SUBJECT = "87b4d06c-abc2-e811-a9b0-000d3a10e09e"
CONTEXT = {"msdyn_cartvalue": "10000", "msdyn_isvip": "false"}
WARM_UP = 200
MILLISECONDS = 1000


def bare_signature(calls: int) -> float:
    """CPU seconds of one RSA-2048 PKCS#1 v1.5 SHA-256 signature with the library that keyturn signs with."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    message = b"m" * 500
    before = time.process_time()
    for _ in range(calls):
        key.sign(message, padding.PKCS1v15(), SHA256())
    return (time.process_time() - before) / calls


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(deployment: Deployment, calls: int) -> tuple[list[float], float]:
    """The latency of each call in seconds, and the server's CPU seconds per token."""
    if deployment.process is None:
        raise RuntimeError("the service is not running")
    latencies = []
    with deployment.client() as client:
        for _ in range(WARM_UP):
            client.sign(subject=SUBJECT, context=CONTEXT)
        before = cpu_seconds(deployment.process.pid)
        for _ in range(calls):
            started = time.perf_counter()
            client.sign(subject=SUBJECT, context=CONTEXT)
            latencies.append(time.perf_counter() - started)
        used = cpu_seconds(deployment.process.pid) - before
    return latencies, used / calls


def main() -> None:
    calls = int(sys.argv[1]) if len(sys.argv) > 1 else 3000
    with tempfile.TemporaryDirectory(prefix="keyturn-bench-") as scratch:
        deployment = Deployment(Path(scratch) / "keyturn")
        deployment.start()
        try:
            latencies, cpu = measure(deployment, calls)
        finally:
            deployment.stop()
    bare = bare_signature(calls)
    centiles = statistics.quantiles(latencies, n=100)
    print(f"SignToken over mTLS on loopback, one caller, {calls} calls one after another")
    print(f"  latency p50                 {centiles[49] * MILLISECONDS:7.2f} ms")
    print(f"  latency p99                 {centiles[98] * MILLISECONDS:7.2f} ms")
    print(f"  server CPU per token        {cpu * MILLISECONDS:7.2f} ms")
    print(f"  CPU of one bare signature   {bare * MILLISECONDS:7.2f} ms   (RSA-2048, the same library)")
    print(f"  CPU per token, in bare signatures {cpu / bare:4.2f}")


if __name__ == "__main__":
    main()
