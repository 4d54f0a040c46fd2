"""Single layers at low precision in PyTorch: modules that take the place of one call of a graph.

`operation.Call` says what is computed and in which scheme; `writing.write` makes the module for it, `writing.choose`
says which, or why there is none. One module per way to compute:

=====================  =============================================================================================
`onednn_layers`        CPU: int8 products and convolutions, static and dynamic, with what follows them fused
`integer_layers`       int8 products by ``torch._int_mm``, one scale per tensor or per token (CUDA; any CPU)
`fp8_layers`           fp8_e4m3 products by ``torch._scaled_mm``, per tensor or row-wise (CUDA; any CPU)
`weight_only_layers`   weights of 8 or 4 bits, activations in floats
`table_layers`         rows of an embedding in 8 or 4 bits
`recurrent_layers`     LSTM, GRU and RNN with int8 matrices, alone or with ranges found at every call (CPU)
`cast_layers`          bf16 and fp16
`tf32_layers`          tf32 for one call at a time (CUDA)
`emulated_layers`      every other format: operands rounded, products in float32
=====================  =============================================================================================

`executed` tells which kernels really ran.
"""
