"""The command line `sora-ref`, the only room that knows all others: flags, printed results, exit statuses."""
