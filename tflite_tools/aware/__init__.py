"""Quantization-aware training: a Keras 3 model carried to `tf_keras` and trained in a process of its own."""
