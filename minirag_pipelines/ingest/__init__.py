"""What only the pipeline does: listing, reading, parsing, chunking, embedding; records in, records out."""
