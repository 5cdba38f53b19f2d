"""A run and its folder: opened, resumed, saved after every epoch, compared, narrated."""
