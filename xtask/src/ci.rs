//! `cargo xtask ci`: what CI runs, which is the quick matrix.

use anyhow::Result;

use crate::matrix;

pub(crate) fn run() -> Result<()> {
    matrix::run(&matrix::Options::quick())
}
