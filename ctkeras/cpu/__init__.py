"""What makes training fast on a CPU; without it everything still works. May import: runtime."""
