"""Every BatchNorm that can go is absorbed into the weights around it; each is accounted for."""
