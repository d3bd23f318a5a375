"""Neural fields: encodings, decoders, backgrounds, density initialization."""
