"""Parts of the completion scripts, which ``dima.cli.completion`` fills in."""
