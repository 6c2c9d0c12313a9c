"""Memory of a task: typed pointers into it, and who hands it out."""
