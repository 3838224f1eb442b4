"""Networks whose configs fewstep reads, without a recording of their pipeline."""
