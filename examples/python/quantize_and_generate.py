#!/usr/bin/env python3
"""Quantizes a model and generates text with it, through Quantloom's two services.

    pip install grpcio grpcio-tools grpcio-status
    quantize_and_generate.py model.gguf model-4bit --recipe icquant:bits=4 --prompt "Once upon a time"

Shows what a client in any language has to do:
  - start a job with a request id, so that repeating the call never starts a second job;
  - follow its events, and after a lost connection go on behind the last one seen;
  - wait as long as the service asks for when it answers RESOURCE_EXHAUSTED;
  - load the packed model, print text as it arrives, and cancel: a job by CancelJob, a generation by its call.

The stubs are generated when the program starts, from the .proto files of this repository.
"""

import argparse
import itertools
import pathlib
import sys
import time
import uuid

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

sys.path.append(str(pathlib.Path(__file__).resolve().parents[2] / "proto"))
quantization, quantization_grpc = grpc.protos_and_services("quantloom/v1/quantization.proto")
generation, generation_grpc = grpc.protos_and_services("quantloom/v1/generation.proto")
model, model_grpc = grpc.protos_and_services("quantloom/v1/model.proto")

ENDED = (
    quantization.JOB_STATE_SUCCEEDED,
    quantization.JOB_STATE_FAILED,
    quantization.JOB_STATE_CANCELLED,
)
# CANCELLED, not by this client, is a server that ends its streams as it stops.
CONNECTION_LOST = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


def retry_delay(error):
    """Seconds that the service asks to wait (google.rpc.RetryInfo), or None."""
    status = rpc_status.from_call(error)
    for detail in status.details if status else []:
        retry = error_details_pb2.RetryInfo()
        if detail.Unpack(retry):
            return retry.retry_delay.ToTimedelta().total_seconds()
    return None


def open_stream(call, tries=10):
    """The stream that `call` opens, once its first message is there; tried again when the service is busy.

    A server stream reports a refusal with its first message, not when it is opened.
    """
    for attempt in range(1, tries + 1):
        stream = call()
        try:
            return itertools.chain([next(stream)], stream), stream
        except grpc.RpcError as error:
            delay = retry_delay(error)
            busy = error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED and delay is not None
            if not busy or attempt == tries:
                raise
            print(f"busy ({error.details()}); trying again in {delay:.1f} s", file=sys.stderr)
            time.sleep(delay)


def job_events(stub, request, give_up_after=600):
    """Starts the job of `request`, or attaches to it; yields its events, each once and in order, until it has ended."""
    events, _ = open_stream(lambda: stub.Quantize(request))
    last, last_seen, pause = None, time.monotonic(), 0.25
    while True:
        try:
            for event in events:
                last, last_seen, pause = event, time.monotonic(), 0.25
                yield event
                if event.job.state in ENDED:
                    return
        except grpc.RpcError as error:
            if error.code() not in CONNECTION_LOST or time.monotonic() - last_seen > give_up_after:
                raise
            print(f"connection lost ({error.details()}); taking the job up again", file=sys.stderr)
        time.sleep(pause)
        pause = min(2 * pause, 10)
        events = stub.WatchJob(
            quantization.WatchJobRequest(name=last.job.name, from_sequence=last.sequence + 1)
        )


def quantize(stub, source, output, recipe):
    """Quantizes and shows the progress; the ended job."""
    request = quantization.QuantizeRequest(
        request_id=str(uuid.uuid4()), source=source, output=output, recipe=recipe
    )
    for event in job_events(stub, request):
        job, progress = event.job, event.job.progress
        if job.state == quantization.JOB_STATE_RUNNING:
            phase = quantization.JobPhase.Name(progress.phase).removeprefix("JOB_PHASE_").lower()
            print(
                f"{job.name}: {phase} {progress.phase_fraction:4.0%}  "
                f"{progress.tensors_done}/{progress.tensors_total}  {progress.tensor}",
                file=sys.stderr,
            )
    if job.state != quantization.JOB_STATE_SUCCEEDED:
        raise RuntimeError(f"{job.name} ended {quantization.JobState.Name(job.state)}: {job.error.message}")
    return job


def cancel_a_job(stub, source, output, recipe):
    """Starts a job and cancels it; the ended job. Leaving the stream would not end it: a job outlives its watchers."""
    request = quantization.QuantizeRequest(
        request_id=str(uuid.uuid4()), source=source, output=output, recipe=recipe
    )
    for event in job_events(stub, request):
        if event.sequence == 1:
            stub.CancelJob(quantization.CancelJobRequest(name=event.job.name))
    return event.job


def generate(stub, request, max_pieces=None):
    """Yields pieces of text as they arrive, and cancels the generation after `max_pieces` of them."""
    responses, stream = open_stream(lambda: stub.Generate(request))
    pieces = 0
    for response in responses:
        if response.text:
            yield response.text
            pieces += 1
        if pieces == max_pieces:
            stream.cancel()  # the server stops within a step and frees what the request held
            return


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", help="model under the quantizer's source root")
    parser.add_argument("output", help="name of the model to make")
    parser.add_argument("--recipe", default="icquant:bits=4")
    parser.add_argument("--prompt", default="Once upon a time")
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--quantizer", default="127.0.0.1:7101")
    parser.add_argument("--server", default="127.0.0.1:7102")
    arguments = parser.parse_args()

    with grpc.insecure_channel(arguments.quantizer) as quantizer_channel, grpc.insecure_channel(
        arguments.server
    ) as server_channel:
        quantizer = quantization_grpc.QuantizationServiceStub(quantizer_channel)
        generator = generation_grpc.GenerationServiceStub(server_channel)
        models = model_grpc.ModelServiceStub(server_channel)

        job = quantize(quantizer, arguments.source, arguments.output, arguments.recipe)
        print(f"made {job.result.path}: {job.result.linear_bits_per_weight:.3f} bits/weight")
        models.LoadModel(model.LoadModelRequest(name=arguments.output), timeout=600)

        request = generation.GenerateRequest(
            model=arguments.output, prompt=arguments.prompt, max_tokens=arguments.max_tokens
        )
        print(arguments.prompt, end="", flush=True)
        for text in generate(generator, request):
            print(text, end="", flush=True)
        print()

        stopped = "".join(generate(generator, request, max_pieces=3))
        print(f"cancelled after three pieces: {stopped!r}")

        job = cancel_a_job(quantizer, arguments.source, arguments.output + "-cancelled", arguments.recipe)
        print(f"{job.name} ended {quantization.JobState.Name(job.state)}")


if __name__ == "__main__":
    try:
        main()
    except grpc.RpcError as error:
        sys.exit(f"{error.code().name}: {error.details()}")
    except RuntimeError as error:
        sys.exit(str(error))
