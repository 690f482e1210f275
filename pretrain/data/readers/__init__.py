"""One file a data format, from bytes on a disk to images with labels, objects or masks; nothing here is drawn."""
