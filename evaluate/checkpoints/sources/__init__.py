"""Where checkpoints come from: files and folders on the disk, hubs and addresses, each pinned to what was found."""
