"""Normalizing flows: invertible maps described once for both libraries, and chains of them by name."""
