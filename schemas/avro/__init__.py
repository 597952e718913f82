"""schemas.avro."""
