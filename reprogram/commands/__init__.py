"""The commands: Hydra reads the command line here, and nowhere else."""
