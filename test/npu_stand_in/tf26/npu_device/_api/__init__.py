"""What is public (python/npu_device/_api)."""
