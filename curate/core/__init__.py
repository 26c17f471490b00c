"""What all four packages share: values, errors, config, images, plug-ins, atomic files, console. Imports nothing of ours."""
