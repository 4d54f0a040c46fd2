"""Number formats and schemes: frozen values with a text form that round-trips."""
