"""The processes: one that serves, or several behind one port and what keeps them alive."""
