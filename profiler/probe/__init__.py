"""The only package that talks to the kernel: hooks and struct offsets in, records out."""
