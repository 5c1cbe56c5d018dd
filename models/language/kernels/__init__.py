"""Triton kernels of language models; imported only where tensors are on a CUDA device."""
