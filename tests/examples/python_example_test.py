"""Runs examples/python/quantize_and_generate.py against the real services.

    python_example_test.py QUANTIZER SERVER TINY_MODEL_WRITER EXAMPLES
"""

import concurrent.futures
import contextlib
import pathlib
import subprocess
import sys
import tempfile
import time
import unittest

QUANTIZER, SERVER, TINY_MODEL_WRITER, EXAMPLES = sys.argv[1:5]
sys.path.insert(0, EXAMPLES)

import grpc  # noqa: E402
import quantize_and_generate as example  # noqa: E402
from google.protobuf import any_pb2  # noqa: E402
from google.rpc import error_details_pb2, status_pb2  # noqa: E402
from grpc_status import rpc_status  # noqa: E402


@contextlib.contextmanager
def service(program, root, name, *options):
    """Runs a service on a free port; its address."""
    port_file = root / f"{name}.port"
    with open(root / f"{name}.log", "wb") as log:
        process = subprocess.Popen(
            [program, "--address=127.0.0.1:0", "--metrics-address=127.0.0.1:0", f"--port-file={port_file}", *options],
            stderr=log,
        )
    try:
        for _ in range(600):
            if port_file.exists() and port_file.read_text().strip():
                break
            if process.poll() is not None:
                raise RuntimeError((root / f"{name}.log").read_text())
            time.sleep(0.05)
        yield f"127.0.0.1:{port_file.read_text().strip()}"
    finally:
        process.terminate()
        process.wait(60)


class RealServices(unittest.TestCase):
    def test_example_runs_to_its_end(self):
        with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as running:
            root = pathlib.Path(name)
            for directory in ("sources", "models", "state"):
                (root / directory).mkdir()
            subprocess.run([TINY_MODEL_WRITER, root / "sources" / "tiny"], check=True)
            quantizer = running.enter_context(
                service(
                    QUANTIZER,
                    root,
                    "quantizer",
                    f"--source-root={root / 'sources'}",
                    f"--model-root={root / 'models'}",
                    f"--state-dir={root / 'state'}",
                )
            )
            server = running.enter_context(service(SERVER, root, "server", f"--model-root={root / 'models'}"))
            command = [sys.executable, pathlib.Path(EXAMPLES) / "quantize_and_generate.py", "tiny", "tiny-4bit"]
            addresses = ["--quantizer", quantizer, "--server", server]
            done = subprocess.run([*command, *addresses], capture_output=True, text=True, check=False, timeout=200)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertIn("encoding", done.stderr)
            self.assertRegex(done.stdout, r"made /.*/models/tiny-4bit: \d\.\d{3} bits/weight\n")
            self.assertRegex(done.stdout, r"(?s)\nOnce upon a time.+\ncancelled after three pieces: ")
            self.assertTrue((root / "models" / "tiny-4bit").is_dir())
            # The tiny model may be done before the cancellation arrives; both are the service's right.
            self.assertRegex(done.stdout, r"job-\w+ ended JOB_STATE_(CANCELLED|SUCCEEDED)\n")

            again = subprocess.run([*command, *addresses], capture_output=True, text=True, check=False, timeout=200)
            self.assertEqual(again.returncode, 1)
            self.assertTrue(again.stderr.startswith("ALREADY_EXISTS: "), again.stderr)


class Scripted(example.quantization_grpc.QuantizationServiceServicer):
    """Answers as the contract describes what the real service does only when it is full, or restarted."""

    def __init__(self):
        self.calls = []
        self.cancelled = []

    def Quantize(self, request, context):
        self.calls.append(("Quantize", request.request_id))
        if len(self.calls) < 3:
            retry = error_details_pb2.RetryInfo()
            retry.retry_delay.FromMilliseconds(100)
            detail = any_pb2.Any()
            detail.Pack(retry)
            status = status_pb2.Status(code=8, message="queue is full", details=[detail])
            context.abort_with_status(rpc_status.to_status(status))
        for sequence in (1, 2):
            yield self.event(sequence, example.quantization.JOB_STATE_RUNNING)
        context.abort(grpc.StatusCode.UNAVAILABLE, "draining")

    def WatchJob(self, request, context):
        self.calls.append(("WatchJob", request.name, request.from_sequence))
        if request.from_sequence == 3:
            yield self.event(3, example.quantization.JOB_STATE_RUNNING)
            return  # a stream that ends before its job
        yield self.event(4, example.quantization.JOB_STATE_SUCCEEDED)

    def CancelJob(self, request, context):
        self.cancelled.append(request.name)
        return example.quantization.Job(name=request.name)

    @staticmethod
    def event(sequence, state):
        return example.quantization.QuantizeEvent(
            sequence=sequence, job=example.quantization.Job(name="job-1", state=state)
        )


class BusyAndLost(unittest.TestCase):
    def setUp(self):
        self.scripted = Scripted()
        self.server = grpc.server(concurrent.futures.ThreadPoolExecutor(4))
        example.quantization_grpc.add_QuantizationServiceServicer_to_server(self.scripted, self.server)
        port = self.server.add_insecure_port("127.0.0.1:0")
        self.server.start()
        self.addCleanup(self.server.stop, None)
        channel = grpc.insecure_channel(f"127.0.0.1:{port}")
        self.addCleanup(channel.close)
        self.stub = example.quantization_grpc.QuantizationServiceStub(channel)

    def test_waits_when_busy_and_goes_on_behind_the_last_event(self):
        request = example.quantization.QuantizeRequest(request_id="r")
        start = time.monotonic()
        sequences = [event.sequence for event in example.job_events(self.stub, request)]
        self.assertGreaterEqual(time.monotonic() - start, 0.2)
        self.assertEqual(sequences, [1, 2, 3, 4])
        self.assertEqual(
            self.scripted.calls, [("Quantize", "r")] * 3 + [("WatchJob", "job-1", 3), ("WatchJob", "job-1", 4)]
        )

    def test_gives_up_when_busy_for_too_long(self):
        with self.assertRaises(grpc.RpcError) as raised:
            example.open_stream(lambda: self.stub.Quantize(example.quantization.QuantizeRequest()), tries=2)
        self.assertEqual(raised.exception.code(), grpc.StatusCode.RESOURCE_EXHAUSTED)
        self.assertEqual(len(self.scripted.calls), 2)

    def test_cancels_a_job_by_name(self):
        example.cancel_a_job(self.stub, "source", "output", "recipe")
        self.assertEqual(self.scripted.cancelled, ["job-1"])


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
