"""Target tasks: every leaf of `TargetData` hands back a checked `TaskData` of uint8 images."""
