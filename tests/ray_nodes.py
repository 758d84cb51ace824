"""Ray nodes on this machine, started as a person would from shells, with a token, ports and a folder of their own."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.processes import kill_with_descendants, processes

RAY = str(Path(sys.executable).with_name("ray"))
HEAD = "127.0.0.2"
SECOND = "127.0.0.3"
START_SECONDS = 400.0


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as free:
        free.bind(("", 0))
        port: int = free.getsockname()[1]
    return port


class RayNodes:
    """A head node and a second one; gone with :meth:`close`.

    Args:
        second: More options of the second node.
        cpus: CPUs that each offers.

    ``ray start`` rewrites 127.0.0.1 to the machine's outer address, but not its neighbours on the loopback interface. Ray's
    servers want the token, which only these processes know.
    """

    def __init__(self, *second: str, cpus: int = 1) -> None:
        self._second = second
        self._cpus = str(cpus)
        self.folder = Path(tempfile.mkdtemp(prefix="ray-"))
        self.address = f"{HEAD}:{free_port()}"
        self.dashboard_port = free_port()
        token = self.folder / "token"
        token.touch(mode=0o600)
        token.write_text(secrets.token_hex(16))
        self.environment = {
            **os.environ,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_ADDRESS": self.address,
            "OMP_NUM_THREADS": "1",
            # These tests keep other clusters on 127.0.0.1 by 0, with which a second node does not start.
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1",
            # On a busy machine a node takes longer than the half minute that Ray waits for it.
            "RAY_raylet_start_wait_time_s": str(round(START_SECONDS)),
        }
        self._nodes: dict[str, subprocess.Popen[bytes]] = {}
        port = self.address.rpartition(":")[2]
        options = ["--port", port, "--temp-dir", str(self.folder / "head"), "--dashboard-port", str(self.dashboard_port)]
        self._start(HEAD, "--head", "--ray-client-server-port", str(free_port()), *options)
        self.start_second()

    def start_second(self) -> None:
        """Start the second node, again if it was lost."""
        self._start(SECOND, "--address", self.address, *self._second)

    def lose_second(self) -> None:
        """Kill everything on the second node at once."""
        process = self._nodes.pop(SECOND)
        kill_with_descendants(process.pid)
        process.wait()

    def pid(self, node: str) -> int:
        """Return the process above everything on a node."""
        return self._nodes[node].pid

    def pids(self, name: str) -> list[int]:
        """Return the processes on both nodes whose command line begins with ``name``."""
        return [pid for process in self._nodes.values() for pid in processes(name, process.pid)]

    def close(self) -> None:
        """Kill both nodes and remove their folder."""
        for process in self._nodes.values():
            kill_with_descendants(process.pid)
            process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _start(self, host: str, *options: str) -> None:
        log = self.folder / f"{host}.log"
        common = ["--node-ip-address", host, "--num-cpus", self._cpus, "--object-store-memory", str(100 * 2**20), "--block"]
        environment = {name: value for name, value in self.environment.items() if name != "RAY_ADDRESS"}
        with log.open("wb") as file:
            process = subprocess.Popen([RAY, "start", *common, *options], env=environment, stdout=file, stderr=file)
        self._nodes[host] = process
        deadline = time.monotonic() + START_SECONDS
        while "Ray runtime started" not in log.read_text(errors="replace"):
            if process.poll() is not None or time.monotonic() > deadline:
                said = log.read_text(errors="replace")
                self.close()
                raise RuntimeError(f"a Ray node did not start: {said}")
            time.sleep(0.1)
