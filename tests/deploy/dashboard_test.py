"""Every metric that a dashboard asks for is exported by a service that has quantized and generated something, and the
documentation lists what is exported.

    dashboard_test.py BIN_DIRECTORY TINY_MODEL_WRITER METRICS_PAGE DASHBOARD...
"""

import contextlib
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request

METRIC = re.compile(r"\b(?:quantloom|process)_[a-z0-9_]+")


@contextlib.contextmanager
def service(executable, directory, *flags):
    """Runs a service on free ports; yields (address, metrics URL); ends it by SIGTERM and expects a clean exit."""
    name = pathlib.Path(executable).name
    port_file, metrics_file = directory / f"{name}.port", directory / f"{name}.metrics"
    process = subprocess.Popen([executable, "--address=127.0.0.1:0", "--metrics-address=127.0.0.1:0",
                                f"--port-file={port_file}", f"--metrics-port-file={metrics_file}", *flags])
    try:
        deadline = time.monotonic() + 30
        while not (port_file.exists() and metrics_file.exists()):
            assert process.poll() is None, f"{name} ended with {process.returncode}"
            assert time.monotonic() < deadline, f"{name} did not start"
            time.sleep(0.05)
        yield f"127.0.0.1:{port_file.read_text().strip()}", f"http://127.0.0.1:{metrics_file.read_text().strip()}/metrics"
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0, f"{name} did not end cleanly"


def exported(url):
    text = urllib.request.urlopen(url, timeout=10).read().decode()
    return {re.split(r"[{ ]", line, maxsplit=1)[0] for line in text.splitlines() if line and not line.startswith("#")}


def main():
    binaries, writer, page, dashboards = pathlib.Path(sys.argv[1]), sys.argv[2], pathlib.Path(sys.argv[3]), sys.argv[4:]
    asked = {}
    for path in dashboards:
        dashboard = json.loads(pathlib.Path(path).read_text())
        for panel in dashboard["panels"]:
            for target in panel.get("targets", []):
                for metric in METRIC.findall(target["expr"]):
                    asked.setdefault(metric, f"{pathlib.Path(path).name}: {panel['title']}")
    assert asked, "the dashboards ask for nothing"

    with tempfile.TemporaryDirectory() as name:
        directory = pathlib.Path(name)
        subprocess.run([writer, directory / "sources" / "tiny"], check=True)
        (directory / "models").mkdir()
        with service(binaries / "quantloom-quantizer", directory, f"--source-root={directory / 'sources'}",
                     f"--model-root={directory / 'models'}", f"--state-dir={directory / 'state'}") as quantizer, \
             service(binaries / "quantloom-server", directory, f"--model-root={directory / 'models'}") as server:
            environment = dict(os.environ, QUANTLOOM_QUANTIZER=quantizer[0], QUANTLOOM_SERVER=server[0])
            for command in (["quantize", "tiny", "tiny-2bit", "--recipe", "icquant:bits=2"],
                            ["model", "load", "tiny-2bit"],
                            ["generate", "--model", "tiny-2bit", "--max-tokens", "8", "--ignore-eos", "Hello"]):
                subprocess.run([binaries / "quantloom", *command], env=environment, check=True, timeout=120)
            found = exported(quantizer[1]) | exported(server[1])

    missing = {metric: place for metric, place in asked.items() if metric not in found}
    for metric, place in sorted(missing.items()):
        print(f"{metric} is asked for by {place}, but no service exports it")
    print(f"{len(asked)} metrics asked for, {len(missing)} missing")

    documented = set(re.findall(r"`((?:quantloom|process)_[a-z0-9_]+)`", page.read_text()))
    families = {re.sub(r"_(bucket|sum|count)$", "", metric) for metric in found if METRIC.fullmatch(metric)}
    for metric in sorted(families - documented):
        print(f"{metric} is exported, but {page.name} does not list it")
    sys.exit(1 if missing or families - documented else 0)


if __name__ == "__main__":
    main()
