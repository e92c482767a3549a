"""The moving-shapes world: a seeded renderer and the TFDS builder of its clips."""
