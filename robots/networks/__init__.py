"""Networks of diffusion policies, with the weight names of the projects that train them. They need only torch."""
