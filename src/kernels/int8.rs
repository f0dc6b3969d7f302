//! int8 x int8 products that sum over tokens (csrc/README.md, "int8"): packing to panels and the tile of products.

use super::bindings as c;
use super::isa::Isa;
use super::table::KernelTable;

type Pack = unsafe extern "C" fn(*const i8, usize, usize, usize, *mut u8);
type Product = unsafe extern "C" fn(*const u8, *const u8, usize, usize, usize, *const f32, i32, *mut f32, usize);

/// The int8 product family of one ISA.
#[derive(Clone, Copy, Debug)]
pub(super) struct Int8Kernels {
    geometry: unsafe extern "C" fn(*mut usize),
    pack_a: Pack,
    pack_b: Pack,
    pack_a_rows: Pack,
    pack_b_rows: Pack,
    product: Product,
}

impl Int8Kernels {
    pub(super) fn for_isa(isa: Isa) -> Self {
        let mut kernels = Int8Kernels {
            geometry: c::hqk_int8_geometry_portable,
            pack_a: c::hqk_int8_pack_a_portable,
            pack_b: c::hqk_int8_pack_b_portable,
            pack_a_rows: c::hqk_int8_pack_a_rows_portable,
            pack_b_rows: c::hqk_int8_pack_b_rows_portable,
            product: c::hqk_int8_product_portable,
        };
        #[cfg(hqk_avx2)]
        if isa.includes(Isa::Avx2) {
            kernels = Int8Kernels {
                geometry: c::hqk_int8_geometry_avx2,
                pack_a: c::hqk_int8_pack_a_avx2,
                pack_b: c::hqk_int8_pack_b_avx2,
                pack_a_rows: c::hqk_int8_pack_a_rows_avx2,
                pack_b_rows: c::hqk_int8_pack_b_rows_avx2,
                product: c::hqk_int8_product_avx2,
            };
        }
        #[cfg(hqk_avxvnni)]
        if isa.includes(Isa::AvxVnni) {
            kernels = Int8Kernels {
                geometry: c::hqk_int8_geometry_avxvnni,
                pack_a: c::hqk_int8_pack_a_avxvnni,
                pack_b: c::hqk_int8_pack_b_avxvnni,
                pack_a_rows: c::hqk_int8_pack_a_rows_avxvnni,
                pack_b_rows: c::hqk_int8_pack_b_rows_avxvnni,
                product: c::hqk_int8_product_avxvnni,
            };
        }
        #[cfg(hqk_avx512)]
        if isa.includes(Isa::Avx512) {
            kernels = Int8Kernels {
                geometry: c::hqk_int8_geometry_avx512,
                pack_a: c::hqk_int8_pack_a_avx512,
                pack_b: c::hqk_int8_pack_b_avx512,
                pack_a_rows: c::hqk_int8_pack_a_rows_avx512,
                pack_b_rows: c::hqk_int8_pack_b_rows_avx512,
                product: c::hqk_int8_product_avx512,
            };
        }
        #[cfg(hqk_avx512vnni)]
        if isa.includes(Isa::Avx512Vnni) {
            kernels = Int8Kernels {
                geometry: c::hqk_int8_geometry_avx512vnni,
                pack_a: c::hqk_int8_pack_a_avx512vnni,
                pack_b: c::hqk_int8_pack_b_avx512vnni,
                pack_a_rows: c::hqk_int8_pack_a_rows_avx512vnni,
                pack_b_rows: c::hqk_int8_pack_b_rows_avx512vnni,
                product: c::hqk_int8_product_avx512vnni,
            };
        }
        #[cfg(hqk_neon)]
        if isa.includes(Isa::Neon) {
            kernels = Int8Kernels {
                geometry: c::hqk_int8_geometry_neon,
                pack_a: c::hqk_int8_pack_a_neon,
                pack_b: c::hqk_int8_pack_b_neon,
                pack_a_rows: c::hqk_int8_pack_a_rows_neon,
                pack_b_rows: c::hqk_int8_pack_b_rows_neon,
                product: c::hqk_int8_product_neon,
            };
        }
        #[cfg(hqk_neondotprod)]
        if isa.includes(Isa::NeonDotprod) {
            kernels = Int8Kernels {
                geometry: c::hqk_int8_geometry_neondotprod,
                pack_a: c::hqk_int8_pack_a_neondotprod,
                pack_b: c::hqk_int8_pack_b_neondotprod,
                pack_a_rows: c::hqk_int8_pack_a_rows_neondotprod,
                pack_b_rows: c::hqk_int8_pack_b_rows_neondotprod,
                product: c::hqk_int8_product_neondotprod,
            };
        }
        #[cfg(hqk_neoni8mm)]
        if isa.includes(Isa::NeonI8mm) {
            kernels = Int8Kernels {
                geometry: c::hqk_int8_geometry_neoni8mm,
                pack_a: c::hqk_int8_pack_a_neoni8mm,
                pack_b: c::hqk_int8_pack_b_neoni8mm,
                pack_a_rows: c::hqk_int8_pack_a_rows_neoni8mm,
                pack_b_rows: c::hqk_int8_pack_b_rows_neoni8mm,
                product: c::hqk_int8_product_neoni8mm,
            };
        }
        let _ = isa;
        kernels
    }
}

/// Shape of the panels of one ISA's int8 product.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Int8Panels {
    /// Columns of the left factor in a panel: rows of an output tile.
    pub a_width: usize,
    /// Columns of the right factor in a panel: columns of an output tile.
    pub b_width: usize,
    token_step: usize,
    value_bytes: usize,
}

impl Int8Panels {
    /// Bytes of a panel of `width` columns over `tokens`: one i32 a column, then the values.
    pub fn bytes(&self, width: usize, tokens: usize) -> usize {
        width * (4 + tokens.next_multiple_of(self.token_step) * self.value_bytes)
    }
}

impl KernelTable {
    /// Longest sum of products of int8 that surely fits an i32: 131,071 * 128 * 128 < 2^31.
    pub const INT8_LONGEST_SUM: usize = 131_071;

    /// The panel shape of this table's int8 product.
    pub fn int8_panels(&self) -> Int8Panels {
        let mut geometry = [0usize; 4];
        // SAFETY: the kernel writes four sizes.
        unsafe { (self.int8.geometry)(geometry.as_mut_ptr()) };
        let [a_width, b_width, token_step, value_bytes] = geometry;
        Int8Panels { a_width, b_width, token_step, value_bytes }
    }

    /// Packs `cols` columns of `tokens` rows of `x` into panels of the left factor, `a_width` columns each, one after the
    /// other; in the last, columns past `cols` are zeros.
    ///
    /// # Panics
    /// If a slice is too short.
    pub fn int8_pack_a(&self, x: &[i8], tokens: usize, stride: usize, cols: usize, panels: &mut [u8]) {
        let shape = self.int8_panels();
        check_pack(
            x,
            tokens,
            stride,
            cols,
            panels.len(),
            cols.div_ceil(shape.a_width) * shape.bytes(shape.a_width, tokens),
        );
        // SAFETY: `x` holds `tokens` rows of `cols` values at `stride` and all panels have their full size, as checked.
        unsafe { (self.int8.pack_a)(x.as_ptr(), tokens, stride, cols, panels.as_mut_ptr()) };
    }

    /// Packs `cols` columns of `tokens` rows of `x` into panels of the right factor, as [`KernelTable::int8_pack_a`] does.
    ///
    /// # Panics
    /// If a slice is too short.
    pub fn int8_pack_b(&self, x: &[i8], tokens: usize, stride: usize, cols: usize, panels: &mut [u8]) {
        let shape = self.int8_panels();
        check_pack(
            x,
            tokens,
            stride,
            cols,
            panels.len(),
            cols.div_ceil(shape.b_width) * shape.bytes(shape.b_width, tokens),
        );
        // SAFETY: as in `int8_pack_a`.
        unsafe { (self.int8.pack_b)(x.as_ptr(), tokens, stride, cols, panels.as_mut_ptr()) };
    }

    /// [`KernelTable::int8_pack_a`] of a matrix whose columns lie one after the other: token `t` of column `c` is
    /// `x[c * stride + t]`.
    ///
    /// # Panics
    /// If a slice is too short.
    pub fn int8_pack_a_rows(&self, x: &[i8], tokens: usize, stride: usize, cols: usize, panels: &mut [u8]) {
        let shape = self.int8_panels();
        let bytes = cols.div_ceil(shape.a_width) * shape.bytes(shape.a_width, tokens);
        check_pack(x, cols, stride, tokens, panels.len(), bytes);
        // SAFETY: `x` holds `cols` columns of `tokens` values at `stride` and all panels have their full size, as checked.
        unsafe { (self.int8.pack_a_rows)(x.as_ptr(), tokens, stride, cols, panels.as_mut_ptr()) };
    }

    /// [`KernelTable::int8_pack_b`] of a matrix as [`KernelTable::int8_pack_a_rows`] takes it.
    ///
    /// # Panics
    /// If a slice is too short.
    pub fn int8_pack_b_rows(&self, x: &[i8], tokens: usize, stride: usize, cols: usize, panels: &mut [u8]) {
        let shape = self.int8_panels();
        let bytes = cols.div_ceil(shape.b_width) * shape.bytes(shape.b_width, tokens);
        check_pack(x, cols, stride, tokens, panels.len(), bytes);
        // SAFETY: as in `int8_pack_a_rows`.
        unsafe { (self.int8.pack_b_rows)(x.as_ptr(), tokens, stride, cols, panels.as_mut_ptr()) };
    }

    /// One tile: `c[i][j] (+)= scales[i] * sum over t of a[t][i] * b[t][j]` for `scales.len()` rows and `cols` columns.
    /// The sum is exact in i32 for up to [`KernelTable::INT8_LONGEST_SUM`] tokens.
    ///
    /// # Panics
    /// If a slice is too short or there are too many tokens.
    #[allow(clippy::too_many_arguments)]
    pub fn int8_product(
        &self,
        a_panel: &[u8],
        b_panel: &[u8],
        tokens: usize,
        cols: usize,
        scales: &[f32],
        accumulate: bool,
        c: &mut [f32],
        c_stride: usize,
    ) {
        let (shape, rows) = (self.int8_panels(), scales.len());
        assert!(tokens <= Self::INT8_LONGEST_SUM, "int8_product: {tokens} tokens overflow an i32");
        assert!(rows <= shape.a_width && cols <= shape.b_width, "int8_product: tile of {rows} x {cols}");
        assert!(a_panel.len() >= shape.bytes(shape.a_width, tokens), "int8_product: left panel too short");
        assert!(b_panel.len() >= shape.bytes(shape.b_width, tokens), "int8_product: right panel too short");
        let needed = if rows == 0 { 0 } else { (rows - 1) * c_stride + cols };
        assert!(cols <= c_stride && c.len() >= needed, "int8_product: output too short");
        // SAFETY: both panels and the output have the sizes the tile needs, as checked.
        unsafe {
            (self.int8.product)(
                a_panel.as_ptr(),
                b_panel.as_ptr(),
                tokens,
                rows,
                cols,
                scales.as_ptr(),
                i32::from(accumulate),
                c.as_mut_ptr(),
                c_stride,
            );
        }
    }
}

fn check_pack(x: &[i8], tokens: usize, stride: usize, cols: usize, panels: usize, bytes: usize) {
    let needed = if tokens == 0 { 0 } else { (tokens - 1) * stride + cols };
    assert!(cols <= stride || tokens <= 1, "int8_pack: {cols} columns, {stride} from row to row");
    assert!(x.len() >= needed, "int8_pack: {} values, {needed} needed", x.len());
    assert!(panels >= bytes, "int8_pack: panels of {panels} bytes, {bytes} needed");
}
