"""Is it right? Numbers, pictures, the report."""
