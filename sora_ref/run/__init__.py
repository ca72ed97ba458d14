"""What an experimenter uses: data, training, checkpoints, pictures and the command line."""
