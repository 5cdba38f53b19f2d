"""What was proved becomes a bundle: manifest, golden rows, graph, report."""
