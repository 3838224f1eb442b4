"""Networks of diffusion policies, under the weight names of the projects that train them. Torch only."""
