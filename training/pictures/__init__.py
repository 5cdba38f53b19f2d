"""Folders of pictures, decoded once into a file of pixels; without torch, so that workers start fast."""
