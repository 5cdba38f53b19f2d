"""BatchNorm's statistics: estimated, shared between processes, reported on."""
