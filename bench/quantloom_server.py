"""quantloom-server as a child process, for the scripts here."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time


def cpu_seconds(pid):
    """Processor time that a process has used so far."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class QuantloomServer:
    """Serves one packed directory, from when the model is loaded to the end of the `with` block.

    `programs` is the directory of quantloom and quantloom-server, `flags` are further ones of the server.
    """

    def __init__(self, programs, model, threads, flags=()):
        self.model = pathlib.Path(model).resolve()
        self.programs = pathlib.Path(programs).resolve()
        self.directory = tempfile.TemporaryDirectory()
        self.port_file = pathlib.Path(self.directory.name, "port")
        self.command = [
            self.programs / "quantloom-server", f"--model-root={self.model.parent}", f"--load={self.model.name}",
            "--address=127.0.0.1:0", "--metrics-address=", f"--port-file={self.port_file}", f"--threads={threads}",
            *flags]
        self.process = None

    def __enter__(self):
        log = pathlib.Path(self.directory.name, "log")
        self.process = subprocess.Popen(self.command, stderr=log.open("w"))
        for _ in range(1200):
            if self.process.poll() is not None:
                sys.exit(f"quantloom-server ended:\n{log.read_text()[-2000:]}")
            if self.port_file.exists() and self.run("generate", "--max-tokens", "1", "x").returncode == 0:
                return self
            time.sleep(0.1)
        sys.exit("quantloom-server did not begin to serve")

    def __exit__(self, *error):
        self.process.terminate()
        self.process.wait()
        self.directory.cleanup()

    def client(self, *arguments):
        """The command of a client of this server, with results as JSON."""
        address = f"127.0.0.1:{self.port_file.read_text().strip()}"
        return [self.programs / "quantloom", "--server", address, "--json", *arguments]

    def run(self, *arguments):
        return subprocess.run(self.client(*arguments), capture_output=True, text=True)

    def load(self, *arguments):
        """The report of `quantloom load`."""
        finished = self.run("load", *map(str, arguments))
        if finished.returncode != 0:
            sys.exit(f"quantloom load failed: {finished.stderr}")
        return json.loads(finished.stdout)

    def describe(self):
        info = json.loads(self.run("info").stdout)
        return f"quantloom-server {info['version']}, {info['simd_target']}, {info['threads']} threads"

    def memory(self, what="VmRSS"):
        """Resident memory now, or with VmHWM the most there was, in MB."""
        for line in pathlib.Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith(what + ":"):
                return int(line.split()[1]) * 1024 / 1e6
        return 0.0
