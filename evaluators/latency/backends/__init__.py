"""Run networks for timing: one file per runtime."""

BACKENDS = {
    "onnxruntime": "evaluators.latency.backends.onnx_runtime:OnnxRuntime",
    "eager": "evaluators.latency.backends.eager:Eager",
    "compile": "evaluators.latency.backends.compiled:Compiled",
}
