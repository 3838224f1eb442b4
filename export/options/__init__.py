"""Options of `fewstep export` that replace or complete what a source defines."""
