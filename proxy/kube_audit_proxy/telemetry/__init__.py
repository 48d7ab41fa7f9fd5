"""What the journal says, shipped as it is written: lines to Loki, spans to Tempo, by OTLP."""
