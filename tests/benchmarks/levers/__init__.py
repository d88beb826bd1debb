"""What beats the best plain average, and by how much: digits, CIFAR-10 and a language model, through the product."""
