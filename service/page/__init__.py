"""The page at `/`: one HTML file, its styles and its scripts; no build step, no other host."""
