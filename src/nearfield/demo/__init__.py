"""The demonstration that `nearfield demo` runs."""
