"""What proposes: language models, diffusion samplers, discrete diffusion."""
