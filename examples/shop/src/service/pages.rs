//! The pages of the gateway, as the services see them that change a part of one: they only invalidate.

use larder::{Cache, OrDeferred as _};

use super::failure::{Answer, Trouble};
use super::{Service, Way};

/// The name of the cache of responses.
pub(crate) const NAME: &str = "http";

/// `None` where nothing is cached by the crate.
pub(crate) struct Pages(Option<Cache<String, ()>>);

impl Pages {
    pub(crate) fn new(service: &Service) -> Result<Self, Trouble> {
        let is_cached = service.setup.way == Way::Larder;
        let cache = is_cached.then(|| service.caches.cache(NAME).build());
        Ok(Self(cache.transpose()?))
    }

    /// The tag of all lists.
    pub(crate) const LISTS: &str = "products";

    /// The tag of the page of a product.
    pub(crate) fn tag(product: u64) -> String {
        format!("product:{product}")
    }

    pub(crate) fn cache(&self) -> Option<&Cache<String, ()>> {
        self.0.as_ref()
    }

    /// To be called when no service has the old part any more: a page that is made anew before could have it.
    pub(crate) async fn changed(&self, product: u64) -> Answer<()> {
        self.invalidate([Self::tag(product)]).await
    }

    /// As [`changed`](Self::changed), for a name, which lists show as well.
    pub(crate) async fn renamed(&self, product: u64) -> Answer<()> {
        let tags = [Self::tag(product), Self::LISTS.to_owned()];
        self.invalidate(tags).await
    }

    async fn invalidate<const N: usize>(&self, tags: [String; N]) -> Answer<()> {
        if let Some(cache) = &self.0 {
            cache.invalidate_tags(tags).await.or_deferred()?;
        }
        Ok(())
    }
}
