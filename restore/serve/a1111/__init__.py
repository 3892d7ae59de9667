"""The protocol of AUTOMATIC1111's web UI, `/sdapi/v1`, as plugins of photo editors use it."""
