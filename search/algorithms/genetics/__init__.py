"""Parts of the genetic search: individuals, variation, reproduction and racing."""
