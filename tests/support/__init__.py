"""What several tests need: data that people have, in all its shapes."""
