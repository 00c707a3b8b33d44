//! The tile of the convolution kernels as a flag.

use clap::builder::{PossibleValuesParser, TypedValueParser};
use psmt_fast::backend::cuda::{Cuda, Tile};
use psmt_fast::ops::Device;
use psmt_fast::{Error, Result};

/// The tiles that can be asked for, smallest first.
fn tiles() -> [Tile; Tile::CHOICES.len()] {
    let mut tiles = Tile::CHOICES;
    tiles.reverse();
    tiles
}

/// Reads the name of a tile of the convolution kernels.
pub fn tile_parser() -> impl TypedValueParser<Value = Tile> {
    let tiles = tiles();
    let tile = move |name: String| tiles.into_iter().find(|tile| tile.name() == name);
    PossibleValuesParser::new(tiles.map(Tile::name)).map(move |name| tile(name).expect("a possible value"))
}

/// The processor, which `--tile` is no use to.
///
/// # Errors
/// [`Error::Usage`] where a tile is asked for.
pub fn refuse_tile(tile: Option<Tile>) -> Result<()> {
    match tile {
        None => Ok(()),
        Some(tile) => Err(Error::Usage(format!(
            "--tile {}: the processor has no tiles; expected another --device",
            tile.name()
        ))),
    }
}

/// The device with a tile for all convolutions that it fits, where one is asked for.
///
/// # Errors
/// [`Error::Usage`] where the device has no kernel of this tile in its precision.
pub fn with_tile(b: Cuda, tile: Option<Tile>) -> Result<Cuda> {
    let Some(tile) = tile else { return Ok(b) };
    if b.has_tile(tile) {
        return Ok(b.with_tile(tile));
    }
    let has: Vec<&str> = tiles().into_iter().filter(|&t| b.has_tile(t)).map(Tile::name).collect();
    Err(Error::Usage(format!(
        "--tile {}: {} has no kernels with it in this precision (wgmma needs bf16 and compute capability 9.0); expected {}",
        tile.name(),
        b.name(),
        has.join(" or ")
    )))
}
